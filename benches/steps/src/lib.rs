//! What a check costs, step by step: `make bench-steps`. See `benches/steps.rs`.
