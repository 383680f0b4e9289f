"""Where the data come from: each module turns one kind of source into files of the landing zone."""
