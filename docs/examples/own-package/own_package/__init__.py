"""An activation and a network for adarelu-sweep."""
