"""Issue 1 of SGD: how accurate is the batch gradient ĝ as an estimate of g?"""
