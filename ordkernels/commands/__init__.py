"""The commands on a person's own table: fit a model, score rows, report on predictions. One module a command, torch loaded by need."""
