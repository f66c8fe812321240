"""What is special to each thing a Kyutai model does: conversing, transcribing, speaking, translating, writing."""
