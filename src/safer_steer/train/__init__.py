"""Stages II and III on one machine: supervised fine-tuning and tutor-in-the-loop GRPO. See docs/training.md."""
