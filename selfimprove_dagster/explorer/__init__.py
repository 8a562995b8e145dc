"""The lineage pages: any experiment, iteration, example or other record, readable in a browser.

`pages` has the routes, `views`, `tables` and `record` what each page shows, `graph` an ancestry, `shown` how
text of models is made inert, `guard` what holds for every answer. The pages only read, those of `review`
aside, on which a person judges. Nothing here is imported by the code location.
"""
