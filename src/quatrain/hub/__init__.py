"""Import and export of checkpoints: Llama 4 from the Hub, dense Llamas, PEFT adapters, GGUF."""
