"""What a run may be told: pydantic sections and their loading. Imports no torch, ray or pyarrow."""
