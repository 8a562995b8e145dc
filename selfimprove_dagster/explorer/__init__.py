"""Serve the lineage pages, which show experiments, iterations, examples and other records in a browser.

A method declares in its `Pages` (`declare`) what its pages show. `funnel`, `curves` and `listings` define the
parts and the defaults, and `methods` looks up the declarations. `pages` defines the routes. `views`,
`tables`, `record` and `graph` collect the data of each page. `shown` escapes text from models, and `guard`
protects every response. All pages are read-only, except those of `review`, on which people enter labels.
"""
