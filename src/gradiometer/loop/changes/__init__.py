"""Named changes to how training continues: another rate, batch, momentum, schedule, optimizer, and
others."""
