"""One-word commands over the bundle's runs: label, train, evaluate."""
