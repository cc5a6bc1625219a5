"""The small studies that are disturbed."""

MATRIX = """
name = "undisturbed"
[matrix]
dataset = "digits"
network = { name = "vgg16_bn", width = 0.0625 }
activation = ["relu", "adarelu"]
seeds = 2
[data]
train_limit = 160
test_limit = 100
[training]
epochs = 2
probes = false
optimizer = { name = "sgd", lr = 0.02, momentum = 0.9 }
[report]
figures = false
register_model = false
[execution]
max_retries = 1000 # whoever kills a worker here does so on purpose
"""
