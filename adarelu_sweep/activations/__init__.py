"""AdaReLU and the activations that it is compared with."""
