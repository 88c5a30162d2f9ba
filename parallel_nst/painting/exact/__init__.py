"""One objective over a picture that belongs to many workers: the untiled result, computed in tiles by ranks.

A rank owns the cores of some neighbouring tiles (`tiles.ownership`): their pixels, their gradient and the optimiser's
vectors over them, one after the other in a flat tensor on its own device, its shard. `run`, threads, machines and GPUs
are one code; one rank with one tile is the untiled run, one rank with many is a picture that does not fit.

A step, from top to bottom (`RankObjective.value_and_gradient`, then the optimiser):

1. A tile reads its core and a halo. What lies in other ranks' cores comes from them (`Halo.fetch`, `Halo.read`).
2. Every tile goes through the network. Its features are summed over its core alone, so that the sums of all tiles are
   those of the picture (`gatys.sums`); they are added over all ranks (`sum_in_order`).
3. Every rank finds the loss of these sums and its derivative by them: the same on all.
4. Every tile sends the derivative back through its graph, which was kept or is made again. The gradient by its halo
   goes back to the owners of those pixels and is added there (`HaloGradient`): the adjoint of 1.
5. The optimiser moves the shard. All that it asks of whole vectors are inner products and largest values
   (`gatys.half_precision.Spread`), and those are added over the ranks, too (`RankSpread`).

Galerne, Raad, Lezama, Morel: Scaling Painting Style Transfer, 2022 (arXiv 2212.13459), find the exact gradient in
pieces too, but keep only the core of each piece's gradient and so need twice the margin.

Bits: whatever is added over tiles is added in the order of tiles, whoever has them and whoever is first. So a picture
has the same bits on any number of ranks, as long as the tiles, the threads of a rank and the kind of processor are the
same; with other tiles it is the same up to rounding. Ranks decide on nothing but numbers that all of them have from
rank 0. Times decide on one thing alone: who gets how many tiles of the next scale (`pace`), never on their cut.

The program that has the workers (`mode`) hands out the picture, hears losses and small previews, and collects the parts
at the end. Ranks that may die leave, every few steps, all that is needed to go on where their death does not reach
(`kept`); when one is lost, the others stop, tiles are dealt anew to those that are there, and all go on from there
(`attempts`). Where the memory of one does not suffice, finer tiles are cut first (`planning.finer`). The same parts
make a snapshot, from which another run goes on with any number of ranks. What the optimiser has learnt goes to the next
scale in parts as well: each rank resamples what its new cores need (`parts`).

The filter that gradients and moves go through (`gatys.preconditioner`) has a halo of its own (`filtered`).
"""
