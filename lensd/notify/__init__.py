"""Messages to people about failures, disks and savings: the one part of lensd with a network.

A process of its own: `lensd notify`, or a child of `lensd run`. It reads the ledger as `lensd
status` does. `news` finds what is new since a `cursor`, `message` makes one message of it, `send`
delivers it, `follow` decides when. Nothing else of lensd imports apprise.
"""
