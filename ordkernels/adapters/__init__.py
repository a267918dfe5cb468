"""This package's parts as other packages' classes; each module needs the package that it is named after.

- `ordkernels.adapters.pyro`: planar flows as Pyro ``TransformModule`` and ``ConditionalTransformModule``
- `ordkernels.adapters.diffusers`: a scheduler of diffusers with timesteps and noise per row
- `ordkernels.adapters.skpro`: the estimators as skpro's ``BaseProbaRegressor``

For ``torch.distributions`` no adapter is needed: ``nn.PlanarFlow(...).transform()`` and ``nn.ConditionalPlanarFlow(...).transform(h)``
are its transforms.
"""
