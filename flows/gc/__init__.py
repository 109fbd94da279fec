"""`atlas gc`: deletes what no later run, checkout or rollback needs.

`needed` decides what DVC's cache and its remote must keep. `work` finds what no run can use in `.atlas`. `collection`
puts both into one plan, and carries it out.
"""
