"""Foreign checkpoints in and out: Llama 4 of the Hub, dense Llamas, PEFT adapters, GGUF."""
