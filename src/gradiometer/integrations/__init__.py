"""The instrument in any loop: your own, Lightning's, the Hugging Face Trainer's; on one process or many."""
