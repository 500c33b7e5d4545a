"""Tables, figures and reports, made from saved records. Nothing here imports torch.

- `analysis` reports what `effopd analyze` measured: tables, printed figures and one interactive HTML file.
- `sweep` reports what `effopd sweep` measured: a figure with its table for each sweep, and a section of that HTML file.
- `accuracy` draws evaluations of several runs and tasks over training.
- `curves` draws training runs: accuracy against cost, and the cost of a target against the learning rate.

`drawing` and `table` hold what these have in common.
"""
