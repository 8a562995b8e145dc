"""The lineage pages: any experiment, iteration, example or other record, readable in a browser.

A method says in its `Pages` (`declare`) what its pages show; `funnel`, `curves` and `listings` have the parts that it
is made of, and the defaults. `methods` looks up what is declared. `pages` has the routes; `views`, `tables`, `record`
and `graph` gather what each page shows; `shown` makes text of models inert; `guard` protects every answer. The pages
only read, except those of `review`, on which a person judges.
"""
