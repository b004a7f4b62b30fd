"""What each GPU costs an hour, by one order; and what part of a GPU a MIG instance is.

The order: the node's annotation, the user's table, the catalogue, the user's fallback by
model; else the GPU is unpriced, which is None and a Problem, never 0. Rules of the file:

- A node's price goes to the GPUs that its type has. A card off the bus does not make the others
  dearer; its part is `missing_price`, so that the node still adds up to the bill.
- A price stated per GPU is for each GPU that the node shows. On a fraction of a card (AWS g6f,
  Azure NVadsA10) the one GPU shown takes the whole node's price.
- Discounts lower list prices: table, catalogue and fallback. An annotation is what is paid, and
  a bought GPU has no list price, so they are not lowered.
- Unknown never matches: a row that states a capacity type is not for a node that states none.
- A node's price says nothing of how it divides over different models. It is split evenly, marked
  as estimated, and the Problem asks for prices by model.
"""

from __future__ import annotations

from gpucost.pricing.catalogue import Catalogue, CatalogueRow
from gpucost.pricing.mig import mig_share
from gpucost.pricing.names import GpuModel
from gpucost.pricing.node import price_gpus

__all__ = ["Catalogue", "CatalogueRow", "GpuModel", "mig_share", "price_gpus"]
