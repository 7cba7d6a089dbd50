"""What the pretraining bought: STS, retrieval, speed and exactness against peers."""
