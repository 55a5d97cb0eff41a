"""Object stores behind one seam, and the wrappers that add policy to them."""
