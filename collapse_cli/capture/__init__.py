"""How users make dumps: arrays appended batch by batch, or taken from a model by forward hooks.

```python
from collapse_cli.capture import capture

capture(model, loader, sites=["encoder.layer.*"], out="features", labels="label", max_samples=10_000)
```

A dump is a folder of safetensors shards and an index that is written last, so that a capture that was killed leaves
shards that are whole and no index.
"""

from collapse_cli.capture.forward import capture
from collapse_cli.capture.writer import DumpWriter

__all__ = ["DumpWriter", "capture"]
