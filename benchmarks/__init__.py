"""Side-by-side measurements of perturbnb, its peer and plain references"""
