"""watch: the instrument in a loop of your own."""
