"""What a referee reads and how long it takes, by element of a model of Llama-3.1-8B's shape (protocol §10.6).

*case*: bytes of its input. *decide*: from these bytes to who is right: decoding, proofs, and the element itself, in plain Python
and one thread; the fastest of the rounds. Only elements whose inputs all lie in their own segment are timed; the others differ by
a few hashes of paths.
"""
