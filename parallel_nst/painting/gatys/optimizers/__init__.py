"""Optimisers over one image of any size, as pairs of functions: `init(image)` gives a state, `step(state, image, loss,
gradient)` gives the next image to evaluate and the next state. One evaluation a step.

Images and gradients are tensors of one shape and precision, usually (1, 3, H, W) in [0, 1], float32 or float64. The
unit of memory below is P, one copy of the image.

Like JAX's donated buffers, the gradient and the state given to `step` belong to it from then on: their memory becomes
that of the results, and neither may be used again. The image given is never changed.

Both work on z, where the image is T z and T a symmetric filter, `through` (see `preconditioner`): they see T times the
gradient, and where they move z, the image moves by T times that. All their vectors are those of z.
"""
