"""LoRA adapters: PEFT folders read, checked and merged."""
