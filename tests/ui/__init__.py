"""How the pages look: a site in every state, its pages as a table, pictures and tests of them."""
