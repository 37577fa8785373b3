"""Reading datasets: tables and folders of faces, labels, votes, and which faces belong to which split."""
