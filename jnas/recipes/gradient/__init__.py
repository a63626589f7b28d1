"""Search by gradient: `driver.run(recipe, Search(...), folder)`."""
