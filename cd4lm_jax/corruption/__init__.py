"""How clean text becomes noisy: what the student and its teacher are shown of a batch.

`views` holds the protocol and its arrays, `masking` the masks that are drawn at random. States that
a policy's rollout visits implement the same protocol in `cd4lm_jax.distillation.rollout`.
"""
