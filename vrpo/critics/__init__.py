"""What estimates values, and what a critic learns beside them."""
