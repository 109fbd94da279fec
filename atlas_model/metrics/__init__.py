"""`scores`: micro, macro and weighted F, hierarchical F. `bootstrap`: confidence intervals and paired differences."""
