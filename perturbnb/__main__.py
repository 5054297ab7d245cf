"`python -m perturbnb` is the command `perturbnb`."
from perturbnb.pipeline import main

main()
