"""The small studies that are disturbed."""

_SMALL = """
[data]
train_limit = 160
test_limit = 100
"""

_COMMON = """
[report]
figures = false
register_model = false
[execution]
max_retries = 1000 # whoever kills a worker here does so on purpose
"""

MATRIX = f"""
name = "matrix"
[matrix]
dataset = "digits"
network = {{ name = "vgg16_bn", width = 0.0625 }}
activation = ["relu", "adarelu"]
seeds = 2
[training]
epochs = 2
probes = false
optimizer = {{ name = "sgd", lr = 0.02, momentum = 0.9 }}
{_SMALL}{_COMMON}
"""

LONGER = f"""
name = "longer"
[data]
train_limit = 800 # an epoch takes a second, so that many a signal falls into one
test_limit = 100
[matrix]
dataset = "digits"
network = {{ name = "vgg16_bn", width = 0.0625 }}
activation = ["relu", "adarelu"]
seeds = 3
[training]
epochs = 6
optimizer = {{ name = "adam", lr = 0.002 }}
schedule = "cosine"
{_COMMON}
"""

SEARCH = f"""
name = "search"
[matrix]
dataset = "digits"
network = {{ name = "vgg16_bn", width = 0.0625 }}
activation = ["relu", "leaky_relu"]
[training]
epochs = 3
probes = false
optimizer = {{ name = "sgd", lr = 0.05, momentum = 0.9 }}
[search]
trials = 4
validation_fraction = 0.25
confirm_seeds = 1
sampler = {{ name = "tpe", n_startup_trials = 2 }}
pruner = {{ name = "median", n_startup_trials = 1, n_warmup_steps = 0 }}
[search.space]
"optimizer.lr" = {{ low = 1e-3, high = 0.3, log = true }}
"activation.negative_slope" = {{ low = 0, high = 1 }}
{_SMALL}{_COMMON}
"""
