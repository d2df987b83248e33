"""Methods that predict the label of a row: a click, a like, a purchase."""
