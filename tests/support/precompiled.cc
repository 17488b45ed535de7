// Nothing of its own: the target that holds the headers which tests include.
