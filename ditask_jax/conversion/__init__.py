"""Weight names and layouts of other code bases, and ours."""
