"""What the project's own tests use to judge a layer or a runtime; shipped, so that users can judge theirs."""
