"""What several benches need: result files, traces of drafts, devices that replay them."""
