"""The pure maths of speculative decoding: acceptance, sampling transforms, expected gain, draft-length control. No I/O."""
