"""What commands print for people: tables, bars, progress."""
