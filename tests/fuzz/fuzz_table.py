"""All fuzz entries: one for each public function."""

from table_data import DATA
from table_more import MORE
from table_ops import OPS
from table_samplers import SAMPLED

TABLE = [*OPS, *DATA, *MORE, *SAMPLED]
