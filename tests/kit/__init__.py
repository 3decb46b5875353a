"""What tests share: model files, load, and checks. Knows the product by its formats and addresses only."""
