"""The drawn world: who there is, what may be seen of them, and how both become a picture and its caption."""
