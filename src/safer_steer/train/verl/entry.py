"""The target of entry point `verl.plugins`: importing it registers. For verl alone; nothing else imports it."""

from safer_steer.train.verl.plugin import register

register()
