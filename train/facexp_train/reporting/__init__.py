"""What the HTML reports are made of: pages, contact sheets of faces, and the style of figures."""
