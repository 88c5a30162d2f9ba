"""Train the embedded backbone: a narrow VGG-shaped network learns a teacher's features on photographs.

Each student tap gets a 1x1 head that predicts the teacher's features at the nearest resolution; the loss is the sum
over taps of the mean squared error with each teacher channel standardised (Hinton et al. 2015 with the hints of Romero
et al., FitNets, 2014). Errors are thus fractions of unexplained variance, from 0 (perfect) to 1 (knows nothing).
Beside it stands what the features are for: the Gram matrix of the prediction and that of the teacher, crop by crop.
Regression alone shrinks what it cannot explain towards the mean, and with it the Gram matrix.

While it learns, each convolution is followed by batch normalisation (Ioffe and Szegedy 2015), which is folded into its
weights at the end: the same function, trained several times faster.

Run as `python -m parallel_nst.training.distill --photos DIR --teacher FILE --output FILE`; a stopped run goes on from
its checkpoints when called again with the same settings.
"""
