"""Work on vectors and passages after the model: similarity, quantisation, text files."""
