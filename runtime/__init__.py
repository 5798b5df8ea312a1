"""What a device needs: open a bundle, turn faces into packets and packets into faces. Never imports torch."""
